from ditq.cli.generate_calibration_data import main

if __name__ == "__main__":
    main()
